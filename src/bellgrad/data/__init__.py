"""Experience: what is gathered is kept here and sampled from here."""
