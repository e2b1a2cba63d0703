"""Rolling a world on: logits to tokens (`sampling`), rows of tokens (`engine`), and the public `World` (`world`)."""
