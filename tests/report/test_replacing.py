import pytest

from bellgrad.report.files import replacing


def test_a_file_is_replaced_only_when_its_successor_is_whole(tmp_path):
    out = tmp_path / "new" / "a.txt"
    with replacing(out) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("first")
    with pytest.raises(KeyError), replacing(out) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert out.read_text() == "first"
    assert list(out.parent.iterdir()) == [out]
