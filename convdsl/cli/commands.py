"""The group of commands."""

import click

from convdsl._version import __version__
from convdsl.cli.check import check
from convdsl.cli.compile import compile_command
from convdsl.cli.eval import evaluate_command
from convdsl.cli.fmt import fmt
from convdsl.cli.predict import predict
from convdsl.cli.reference import explain, layers
from convdsl.cli.train import train
from convdsl.cli.tune import tune


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="convdsl")
def commands() -> None:
    """Describe a convolutional network in one page of text; get its shapes, its costs and fused
    Triton training code; train it."""


_COMMANDS = (
    compile_command,
    check,
    fmt,
    train,
    evaluate_command,
    predict,
    tune,
    explain,
    layers,
)
for _command in _COMMANDS:
    commands.add_command(_command)
