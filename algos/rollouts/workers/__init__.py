"""Worker processes: what runs inside one, how they are started and ended, what is sent to them.

`worker` is the inside, whatever carries the messages. `pool` gives items to workers and replaces
those that die, wherever they are. `local` has processes of this machine, in which `serve` answers.
"""

BACKENDS = ("local", "ray")
"""Where workers may be."""

TIMEOUTS = (0.1, 1e6)
"""The least and the largest ``worker_timeout``, in seconds."""
