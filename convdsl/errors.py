"""The catalogue of findings: every code with its title and what `convdsl explain` says of it.

A code is never reused. E1 is how the text is written, E2 what it says, E3 the world outside
(files, limits), E4 data, weights and training, W warnings and lints. `tests/errors/<code>*.cnn`
shows each one but E4, which `tests/test_train_*.py` do.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    title: str
    explanation: str


CATALOGUE: dict[str, Entry] = {}


def _add(code: str, title: str, explanation: str) -> None:
    CATALOGUE[code] = Entry(title, explanation)


_add("E100", "unexpected text", "The text does not continue as the grammar allows here.")
_add(
    "E101",
    "missing `-` between two layers",
    "Layers of a chain are joined by `-` or `->`: write `CONV(64) - RELU`.",
)
_add("E102", "bracket never closed", "Every `(`, `[` and `{` needs its partner.")
_add("E103", "kinds of bracket differ", "A group opened with `[` closes with `]`, `(` with `)`.")
_add(
    "E104",
    "one branch only",
    "A merge takes two or more branches, `ADD{ a | b }`; write ID for an untouched branch.",
)
_add(
    "E105",
    "arithmetic in a repeat count",
    "The count after `*` is one number or name; put arithmetic in parentheses: `*(N + 1)`.",
)
_add(
    "E106",
    "second comma",
    "`,` ends the net and introduces its one head; layers are joined by `-`.",
)
_add(
    "E107",
    "shape not understood",
    "Shapes are written HxWxC (32x32x3), C@HxW (3@32x32), C@L (3@128) or N (784).",
)
_add(
    "E108",
    "`?` without a condition",
    "`POOL?` of the lecture pattern means `maybe`; write POOL, drop it, or `POOL?(condition)`.",
)
_add(
    "E109",
    "text is not plain UTF-8",
    "The file holds bytes, invisible characters (NUL, bidirectional controls) or signs that no "
    "program needs; comments and strings may hold any visible letters.",
)
_add("E110", "no network", "A file needs a `net` or one bare chain of layers.")
_add("E111", "number out of range", "Integers have at most 18 digits, floats must be finite.")
_add(
    "E112",
    "name not usable",
    "Names are at most 100 ASCII letters, digits and underscores, and no word of the language.",
)
_add(
    "E113", "unterminated string", "A string ends with the quote that opened it, on the same line."
)
_add("E114", "closing bracket without partner", "Nothing is open that this bracket could close.")
_add(
    "E115",
    "chain without `net`",
    "A file is one bare chain, or statements, and then its chain is written `net NAME = chain`.",
)
_add("E116", "missing `,`", "Arguments, parameters and elements of a list are parted by `,`.")
_add(
    "E117",
    "line of a listing not understood",
    "A text in which a line begins like `[55x55x96] CONV1` is read as a lecture's listing, line by "
    "line; docs/language.md shows all kinds of line.",
)
_add(
    "E118",
    "lines of a listing out of order",
    "A listing is one INPUT, then the layers in order; only the last may be marked as the output.",
)

_add("E200", "unknown layer or block", "No layer, block or module has this name.")
_add(
    "E201",
    "argument fits nowhere",
    "The layer has no argument of this name or place (see `convdsl layers NAME`), or one by place "
    "stands behind a named one.",
)
_add("E202", "argument missing", "The argument has no default and must be given.")
_add("E203", "argument given twice", "Each argument may be given once, by place, letter or name.")
_add("E204", "argument of the wrong kind", "The value is not one the argument can take.")
_add("E205", "unknown name", "No let, block parameter or loop variable of this name is in reach.")
_add(
    "E206", "unknown tag or input", "`@name` needs `as name` earlier in reach, or an `input name:`."
)
_add(
    "E207",
    "defined twice",
    "Names of lets, blocks, inputs, nets and tags are unique in their scope.",
)
_add(
    "E208",
    "name of the wrong case",
    "Built-in layers are UPPERCASE, so blocks, modules and tags contain a lower-case letter.",
)
_add("E209", "recursion", "A block may not use itself, directly or through others.")
_add(
    "E210",
    "branches disagree",
    "ADD and DISTANCE need equal shapes, CONCAT equal height and width; MUL equal shapes, or one "
    "number for every channel of the largest.",
)
_add("E211", "shape note does not hold", "The note after `::` is a checked assertion.")
_add("E212", "window larger than its input", "F must fit into the padded input: F <= W + 2P.")
_add(
    "E213",
    "groups do not divide",
    "`groups` must divide both the input channels and K; MAXOUT and CHPOOL leave no channel out.",
)
_add("E214", "layer does not take this kind of input", "For example CONV on a vector.")
_add("E215", "head does not fit", "The head needs another shape, or there is no head of this name.")
_add("E216", "softmax twice", "`, SOFTMAX` already contains the softmax: training works on logits.")
_add("E217", "division is not exact", "`/` must divide exactly; `//` rounds down.")
_add(
    "E218", "operands of the wrong kind", "Arithmetic works on numbers, `and or not` on conditions."
)
_add("E219", "loop names and values do not match", "Each element needs one value for every name.")
_add("E220", "repeat count of the wrong kind", "A group is repeated a whole number >= 1 of times.")
_add(
    "E221",
    "no input",
    "The net needs an `input` line, `--input`, or a chain that starts at `@name`.",
)
_add(
    "E222",
    "padding not defined here",
    "`half` is (F-1)/2, so F must be odd; pooling may pad at most half its window; the window of "
    "LRN is centred, so its size is odd.",
)
_add("E223", "module used at two shapes", "A module has one set of weights, so one input shape.")
_add("E224", "output size is not whole", "With --strict, (W-F+2P)/S must be whole.")
_add(
    "E225",
    "branches where none belong, or none where they do",
    "Merges such as CONCAT and ADD take branches in braces, other layers, blocks and modules none.",
)
_add("E226", "shape of nothing", "`@.C` is read where no tensor flows, or the axis does not exist.")
_add(
    "E227",
    "let cannot be set",
    "`-D NAME=VALUE` names a let that the file does not have, or the value given from Python is "
    "none of the language.",
)

_add("E300", "file not readable", "The file does not exist, is no regular file or may not be read.")
_add("E301", "import refused", "Imports stay inside the folder of the importing program.")
_add("E302", "import cycle", "A file may not import itself, directly or through others.")
_add(
    "E303",
    "name not in the imported file",
    "The imported file defines no block or module so named.",
)
_add(
    "E304",
    "limit reached",
    "The limits (file size, words, nesting, layers, imports, elements) guard memory and time.",
)

_add(
    "W301",
    "window drops rows or columns",
    "(W-F+2P)/S is not whole, so the last rows or columns are never seen. --strict refuses it.",
)
_add("W302", "channels look misplaced", "32x32x3 is HxWxC; channels first is written 3@32x32.")
_add("W303", "repeat binds to one layer", "`CONV-RELU*2` repeats only RELU; use (CONV-RELU)*2.")
_add(
    "W304",
    "never used",
    "The let, block, module, import or tag is defined but not used. A tag that is part of a "
    "parameter's name counts as used.",
)
_add(
    "W305",
    "activation on the logits",
    "A head works on raw scores; an activation before it distorts them.",
)
_add(
    "W306",
    "one layer holds most parameters",
    "One dense layer of 100,000 parameters or more holds 90 % or more of all parameters.",
)
_add(
    "W307",
    "bias has no effect",
    "BN subtracts the mean of each channel and has a bias of its own; before it write bias=false.",
)

_add("E410", "not enough samples", "A part of the data, or a class of it, has no samples.")
_add(
    "E411",
    "data cannot be read",
    "The file or folder is damaged, missing, or not of the kind that --data names. Files that "
    "could run code, such as pickle, are never read.",
)
_add(
    "E412",
    "data does not fit the network",
    "Inputs must have the shape that the network reads. --resize and --pad bring pictures to it; "
    "--input compiles the network for another size.",
)
_add(
    "E413",
    "labels do not fit the head",
    "Classes are whole numbers from 0 to one less than the scores of the last layer.",
)
_add(
    "E414",
    "inputs out of range",
    "Inputs must be finite; pictures are uint8 in 0..255 or fractions in 0..1.",
)
_add("E415", "augmentation does not suit the data", "See `convdsl train --help` for the kinds.")
_add("E416", "setting out of range", "The setting does not exist or does not suit this network.")
_add(
    "E420",
    "weights cannot be used",
    "The checkpoint or file of weights is torn, of another kind, or does not fit the network.",
)
_add(
    "E421",
    "the run's folder is taken",
    "A folder holds one run. --resume goes on with it, --out names another folder.",
)
_add("E422", "cannot write", "The disk is full, or the folder may not be written to.")
_add(
    "E423",
    "the checkpoint is of another run",
    "Program, settings, data and classes must be those the run was started with. --force goes on "
    "with another program or settings; other classes need a new run with --init.",
)
_add(
    "E430",
    "the loss is not finite",
    "Training has diverged, or an input or weight was not finite. The last good checkpoint is "
    "kept: go on from it with a smaller learning rate.",
)
_add("E431", "out of memory", "A smaller --batch, or --precision bf16, needs less.")
