"""Small networks for control: policies, distributions, and what training them needs."""
