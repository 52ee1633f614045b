"""How the embedded SAM2-micro and CLIP-micro are made, evaluated and documented."""
