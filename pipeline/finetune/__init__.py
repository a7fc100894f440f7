"""`headstart finetune`: phase 2, training the head together with the top layers of the backbone."""
