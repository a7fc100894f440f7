"""The command `headstart backbones`: the networks there are, and where each can be cut."""
