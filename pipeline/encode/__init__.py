"""Stage 2, I = E_v(x * m) and T = E_t(t): CLIP features of several views of every image."""
