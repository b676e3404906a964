"""`line_recipe.py` with the flags of the real ones: `python engine_recipe.py --data D --output O --resume auto`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

import line_recipe  # noqa: E402

from xtts_gatekeeper.errors import refusing  # noqa: E402
from xtts_gatekeeper.recipe import go_on, parse_flags, recipe_parser  # noqa: E402


def main():
    args = parse_flags(recipe_parser(__doc__, lr=None))
    go_on(args.resume, args.output, "line")
    sys.argv[1:1] = [str(args.output)]
    line_recipe.main()


if __name__ == "__main__":
    with refusing():
        main()
