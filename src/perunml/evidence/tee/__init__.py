"""What the evidence of several vendors has in common: its rules, and how its parts are joined."""
