"""Gates, decisions, and the champion."""
