"""The parts of the story that `pipeline` tells: what is asked for, evidence, plan, and what is written."""

from shoal.stages.analyzing import analyze
from shoal.stages.asking import make_request, units_of
from shoal.stages.output import Output
from shoal.stages.planning import choose_plan, make_plan

__all__ = ["Output", "analyze", "choose_plan", "make_plan", "make_request", "units_of"]
