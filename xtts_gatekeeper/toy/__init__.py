"""Small real things to try the rest on without any download: speech that a synthesiser speaks, a tiny XTTS."""
