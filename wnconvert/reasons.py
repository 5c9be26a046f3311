"""Why a weight was skipped: values that a program can act on, each with its texts for people."""

from __future__ import annotations

from enum import Enum, unique
from string import Formatter


class Reason(str):
    """A text that knows what it says.

    Attributes:
        why: what it says, whatever the names and numbers in the text are.
    """

    why: Why

    def __new__(cls, text: str, why: Why) -> Reason:
        """Return ``text`` with what it says."""
        reason = super().__new__(cls, text)
        reason.why = why
        return reason

    def __getnewargs__(self) -> tuple[str, Why]:  # type: ignore[override] # what copy and pickle call the class with
        return str(self), self.why


@unique
class Why(Enum):
    """Why a weight was skipped, as far as one would act on it; the values are texts, with the facts in braces.

    A member has a text for each set of facts that may be known: calling it with them gives the reason.
    """

    # what the user asked for
    NOT_CHOSEN = (
        "not asked for",
        "not chosen by {chooser}",
        "not included by {include}",
        "excluded by {exclude}",
        "not among the ops {ops}",
        "has {size} elements, fewer than {least}",
    )
    DIM = (
        "{error}",  # a dim, say, that this weight has not
        "{shown}",  # another kept dim than the user says
        "its parts do not show the kept dim{how}; give it (--dim)",
    )

    # it is in the wanted state
    ALREADY_PLAIN = "already a plain weight"
    ALREADY_COMPUTED = "already {how}"
    ALREADY_SPLIT = "already under {scheme}", "already {form}"

    # it is in another state
    OTHER_SCHEME = (
        "under {scheme}; fold that first",
        "it is under {scheme}, not under {wanted}",
        "in layout {layout}; {way_out}",
        "of {adapter}; {way_out}",
    )
    OUTSIDE_GRAPH = "computed by its module, outside of the graph; fold the module"
    WRAPPED = (
        (
            "{where} is wrapped already, by {wrapper}, which relies on the parameters that are there: apply to the "
            "plain model first, and wrap the result"
        ),
        "its module became a {kind} after it was converted; undo that first",
        "its DistributedDataParallel cannot be made anew: fold the .module of that, and wrap the result",
    )
    SHARDED = (
        "its parameters are sharded: load a full state dict into the plain model, and convert that",
        "it is sharded, as a {kind}: apply to the plain model first, and shard the result",
    )

    # what the tensor is
    BUFFER = "it is a buffer, which is not trained"
    UNINITIALIZED = "it is not initialized yet; run the model once"
    SUBCLASS = "it is a {kind}, not a plain parameter", "it is computed from a {source}, not from plain tensors alone"
    COMPILED = "the TorchScript module {module!r} holds it, whose code is fixed"
    DTYPE = (
        "its dtype {dtype} is none that a scheme can compute with",
        "its layout {layout} is not strided",
        "its part {part!r} has a dtype or layout that no scheme can compute with",
        "its parts have several dtypes",
    )
    NO_DATA = "has no data", "it is empty, of shape {shape}", "its part {part!r} has no data"
    STRIDES = (
        "its memory has gaps or overlaps (strides {strides}), and no composed weight's has",
        "its strides {computed} overlap or leave gaps, which a weight of its own cannot keep",
        "its strides {strides} would become {composed}",
    )
    NON_FINITE = "it holds non-finite values"
    GRADIENT_HOOKS = "it has gradient hooks, which would be lost"
    SHARED_MEMORY = "it shares memory with {other!r}, which is another tensor"

    # what is done with it
    MAX_NORM = "max_norm rewrites the weight in every forward"
    SPARSE_GRADIENT = "its gradient is sparse, which no normalization can pass on"
    CHANGED_IN_PLACE = "{who} changes {what} in place", "it {does} a parameter or buffer {how}"
    MODULE_HOOKS = "its module has hooks, which only run when the module itself is called"
    UNREAD = "no weighted op reads it"
    READER_UNKNOWN = "nothing shows what reads it; give example_inputs, or include it by its full name"
    OPAQUE = "{read} {module!r}, a {kind} that the graph does not look into"
    FEEDS_WEIGHT = "a computed weight depends on it"
    HELD_ELSEWHERE = "{holder} refers to it too, and would not see that it is composed"
    FORWARD_LOOKS = (
        "a forward assigns {what}",
        "a forward asks whether it is a parameter, which a composed weight is not",
        "a forward {asks} its {name!r}, which a composed weight has in another way",
        "a forward takes it from {where}, where its parts would stand",
    )
    SHAPE = "has shape {shape}, but {expected} in the model"
    ABSENT = "is no weight of a weighted op of the model", "{known}, but {lacking}"

    # why a normalization of activations cannot be fused
    BATCH_STATISTICS = "it normalizes by the statistics of its batch, {how}"
    NOT_CONSTANT = "its {what} is computed from the input"
    SEVERAL_DIMS = "its gain covers {dims} dims, and a layer reads one"
    USED_ELSEWHERE = "{what} is read elsewhere too", "it is read by {who} too, which is no layer"
    NO_LAYER = "no linear layer or convolution stands beside it: it reads {before}, and is read by {after}"
    CALLED_TWICE = "module {fqn!r} is called {count} times", "weight {weight!r} is read {count} times"
    TIED = "weight {fqn!r} is tied to {other!r}; untie it first, or ask for it (untie)"
    COMPUTED = "the weight of {who!r} is computed; fold it first"
    ZERO_PADDING = "it would shift the zeros around the input of {fqn!r}"
    RANK = (
        "nothing shows which dim of its input holds the {channels} channels; give example inputs",
        "nothing shows that its input has {rank} dims, as its result has; give example inputs",
        "its result has shape {after}, and its input {before}",
    )
    CHANNELS = "it has {channels} channels in dim {dim}, and {fqn!r} {others}"
    UNSEEN = (
        "no graph shows what stands beside it; give example inputs, or fuse an exported program",
        "nothing shows shape and dtype of {input!r}; give example inputs, or fuse an exported program",
    )
    IN_FORWARD = "a forward computes it with functions, which a module keeps; fuse a graph of it (how='graph')"
    PROMOTES = (
        "it may turn its input into {dtype}, and {fqn!r} is {own}",
        "it may turn its input into {dtype}, and {cast!r} gives {own}",
        "it turns its input into {dtype}, and {input!r} is {own}",
    )

    # it does not come back, or could not stay as it is
    INEXACT = (
        "does not come back from its parts",
        "its norm has no exact representation in {dtype}",
        "what it makes of {fqn!r} is too large or too small for {dtype}",
    )
    PADDING = "its padding, row {row}, would not stay as it is under {scheme} with this dim"
    NAME_TAKEN = (
        "{holder} already has an attribute {name!r}",
        "the key {key!r} is in the way",
        "the key {stray!r} would be taken for one of its parts",
    )
    ADDS_KEY = "what it is computed from is read elsewhere too, so that folding would add a key"
    SPANS_MODEL = (  # a scheme that needs several weights together
        "{scheme} takes all weights of a model together, and those of the graph are composed by its nodes",
        "{scheme} composes it of all {count} weights; fold the whole model",
        "has {parts} in common with {other!r}, which is not folded",
    )

    # its value cannot be computed
    RANDOM = "it is random{how}"
    FAILS = "it cannot be computed: {error}", "peft does not merge it: {refusal}"
    NOT_COMPUTED = (
        "it is a parameter itself, and is not computed",
        "it is a {kind}, not a tensor",
        "it is computed from {source!r}, which {what}",
    )
    NO_GRAPH = "{refusal}"  # as tracing words it

    # why pre-activations cannot be given mean 0 and variance 1
    NOT_RUN = "nothing read it on these batches"
    READ_OTHERWISE = (
        "{reader} reads it, which does not show what it gives before an activation",
        "what a layer reads is not what {what} compose",
    )
    NO_SCALE = (
        "{scheme} has no part that scales it",
        "{part!r} has shape {shape}, and none for each of its {units} output units; convert it with dim='output'",
        "the {groups} groups of a transposed convolution leave it no dim of output units",
    )
    FROZEN = "its part {part!r} is not trained (requires_grad is False)"

    # what its keys in a file do not show, or a layout cannot hold
    SCHEME_UNKNOWN = (
        "its scheme is not known",
        "its parts {parts} are not those of {scheme}",
        "{what}; fold the model itself",
    )
    MISFIT = "its parts do not fit together{how}"
    PART_MISSING = "its part {part!r} is missing"
    LAYOUT = (
        "{problem}",  # what only one layout knows
        "{what}, which cannot be applied",
        "torch has no {lacking}",
        "{layout} has no {target} with the same numbers; fold it",
        "is no weight that {layout} can have, by its name and shape",
        "its module has others in it ({inner!r}), and {layout} would rename them",
        "{what}, but {layout} holds only {held}",
    )

    def __init__(self, *texts: str) -> None:
        self.texts = {frozenset(name for _, name, _, _ in Formatter().parse(text) if name): text for text in texts}

    @property
    def already(self) -> bool:
        """Whether the weight is in the wanted state, so that leaving it is the right result."""
        return self in (Why.ALREADY_PLAIN, Why.ALREADY_COMPUTED, Why.ALREADY_SPLIT)

    @property
    def missed(self) -> bool:
        """Whether the weight was asked for and is not in the wanted state; strict conversions refuse that."""
        return self is not Why.NOT_CHOSEN and not self.already

    def __call__(self, **facts: object) -> Reason:
        """Return the reason with the facts in its text."""
        return Reason(self.texts[frozenset(facts)].format(**facts), self)
