"""`headstart advise`: recommend a network and a cut, and say whether to fine-tune."""
