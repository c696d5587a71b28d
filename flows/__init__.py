"""What a person starts: flows and the command line, only wiring."""
