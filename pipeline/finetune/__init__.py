"""`headstart finetune`: phase 2, the top of the backbone trained on raw images."""
