"""What a finite problem and its solution look like: text, pictures and films."""
