"""Making datasets of aligned stems: composed music, MIDI files."""
