"""What ``textenv play`` does: a person, a policy, or a recording plays in the terminal.

`text` asks for answers, `control` for keys, `replay` shows what was recorded, and `partner` is the
policy that a person asks or plays against.
"""
