"""The conversions on live modules, in place, where no graph of the whole model is to be had."""
