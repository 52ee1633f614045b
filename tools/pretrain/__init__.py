"""How the embedded models are made: data, phantoms, scenes, losses, loop, judging, cards."""
