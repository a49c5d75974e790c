"""What a finished folder must still say, by kind of folder."""
