"""Where frames and actions of a written data set come from, as two of its columns: imagined data never passes for recorded data."""

FRAME, ACTION = "provenance.frame", "provenance.action"
GIVEN, IMAGINED, REFINED = 0, 1, 2  # of a frame
DRIVEN, PROPOSED, UNKNOWN = 0, 1, 2  # of an action
MEANINGS = {
    FRAME: {"0": "given, as the tokenizer gives it back", "1": "imagined", "2": "imagined, refined by the diffusion decoder"},
    ACTION: {"0": "given", "1": "imagined by the world", "2": "unknown: the numbers are zeros"},
}
