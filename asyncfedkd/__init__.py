"""The installed command `asyncfedkd`: one name for all programs. It knows where they are and nothing else."""
