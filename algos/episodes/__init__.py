"""What a rollout records, and how one episode is played."""
