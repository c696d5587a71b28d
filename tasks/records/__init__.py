"""What is known of a variant, as typed records; pure."""
