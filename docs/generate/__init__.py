"""Makes the pages of docs/ that say what the program is: `just docs`."""
