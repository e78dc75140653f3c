"""Loading, saving and adapting language models, and finding out what one can do."""
