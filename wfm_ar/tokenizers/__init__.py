"""A modality to token ids and back: `video` (FSQ), `text` (SentencePiece), `action` (a lattice of values a channel).

Each counts its ids from 0; `world_model.sequence` alone knows where they land in the model's vocabulary.
"""
