"""Which sensors a prediction rests on: what is asked, the methods, and which of them to believe."""
