"""What a rollout records, and what it takes to play one episode."""
