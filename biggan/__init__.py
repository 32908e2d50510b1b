"""Class-conditional BigGAN training (Brock, Donahue & Simonyan 2018, arXiv:1809.11096)."""
