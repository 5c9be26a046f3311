"""Why a weight was skipped: values that a program can act on, each with its text for people."""

from __future__ import annotations

from enum import Enum, unique


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
    """Why a weight was skipped; the value is the text, with the facts in braces."""

    # what the user asked for
    NOT_INCLUDED = "not included by {globs}"
    EXCLUDED = "excluded by {globs}"
    OTHER_OP = "not among the ops {ops}"
    TOO_SMALL = "has {size} elements, fewer than {least}"
    NOT_CHOSEN = "not chosen by the predicate"
    NOT_ASKED_FOR = "not asked for"
    OPTION = "{error}"  # a dim, say, that this weight has not

    # it is in the wanted state
    ALREADY_PLAIN = "already a plain weight"
    ALREADY_COMPUTED = "already computed {where}"
    ALREADY_HOOKED = "already computed by a hook of the module"
    ALREADY_PARAMETRIZED = "already parametrized by torch.nn.utils.parametrize"
    ALREADY_IN_PLACE = "already composed in place"
    ALREADY_UNDER = "already under {scheme}"
    ALREADY_SPELLED = "already {form}"

    # it is in another state
    UNDER_OTHER = "under {scheme}; fold that first"
    OTHER_SCHEME = "it is under {scheme}, not under {wanted}"
    OTHER_LAYOUT = "in layout {layout}; {way_out}"
    OUTSIDE_GRAPH = "computed by its module, outside of the graph; fold the module"
    COVERED = "its module became a {kind} after it was converted; undo that first"
    WRAPPED = (
        "{where} is wrapped already, by {wrapper}, which relies on the parameters that are there: apply to the plain "
        "model first, and wrap the result"
    )
    SHARDED = "its parameters are sharded: load a full state dict into the plain model, and fold that"
    DISTRIBUTED = "its DistributedDataParallel cannot be made anew: fold the .module of that, and wrap the result"

    # what the tensor is
    BUFFER = "it is a buffer, which is not trained"
    UNINITIALIZED = "it is not initialized yet; run the model once"
    SUBCLASS = "it is a {kind}, not a plain parameter"
    COMPILED = "the TorchScript module {module!r} holds it, whose code is fixed"
    DTYPE = "its dtype {dtype} is none that a scheme can compute with"
    EMPTY = "it is empty, of shape {shape}"
    NO_DATA = "has no data"
    NOT_STRIDED = "its layout {layout} is not strided"
    GAPS = "its memory has gaps or overlaps (strides {strides}), and no composed weight's has"
    GRADIENT_HOOKS = "it has gradient hooks, which would be lost"
    SHARED_MEMORY = "it shares memory with {other!r}, which is another tensor"

    # what is done with it
    MAX_NORM = "max_norm rewrites the weight in every forward"
    SPARSE_GRADIENT = "its gradient is sparse, which no normalization can pass on"
    CHANGED_IN_PLACE = "{who} changes {what} in place"
    MODULE_HOOKS = "its module has hooks, which only run when the module itself is called"
    UNREAD = "no weighted op reads it"
    READER_UNKNOWN = "nothing shows what reads it; give example_inputs, or include it by its full name"
    OPAQUE = "inside {module!r}, a {kind} that the graph does not look into"
    READ_INSIDE = "it is also read inside {module!r}, a {kind} that the graph does not look into"
    FEEDS_WEIGHT = "a computed weight depends on it"
    HELD_ELSEWHERE = "{holder} refers to it too, and would not see that it is composed"
    FORWARD_ASSIGNS = "a forward assigns {what}"
    FORWARD_ASKS_KIND = "a forward asks whether it is a parameter, which a composed weight is not"
    FORWARD_ASKS_ATTRIBUTE = "a forward {asks} its {name!r}, which a composed weight has in another way"
    FORWARD_LISTS = "a forward takes it from {where}, where its parts would stand"
    SHAPE = "has shape {shape}, but {expected} in the model"
    NOT_IN_MODEL = "is no weight of a weighted op of the model"
    ABSENT = "{known}, but {lacking}"

    # it does not come back, or could not stay as it is
    NON_FINITE = "it holds non-finite values"
    INEXACT_NORM = "its norm has no exact representation in {dtype}"
    INEXACT = "does not come back from its parts"
    STRIDES = "its strides {strides} would become {composed}"
    PADDING = "its padding, row {row}, would not stay as it is under {scheme} with this dim"

    # names that are taken
    ATTRIBUTE_TAKEN = "{holder} already has an attribute {name!r}"
    KEY_TAKEN = "the key {key!r} is in the way"
    KEY_STRAY = "the key {key!r} would be taken for one of its parts"
    ADDS_KEY = "what it is computed from is read elsewhere too, so that folding would add a key"

    # a scheme that needs several weights together
    SPANS_MODEL = "{scheme} takes all weights of a model together, and those of the graph are composed by its nodes"
    SPANS_WEIGHTS = "{scheme} composes it of all {count} weights; fold the whole model"
    SPANS_SKIPPED = "has {parts} in common with {other!r}, which is not folded"

    # its value cannot be computed
    RANDOM = "it is random{how}"
    CHANGES_STATE = "it {does} a parameter or buffer {how}"
    FAILS = "it cannot be computed: {error}"
    NOT_FROM_PARAMETERS = "it is computed from {source!r}, which {what}"
    NOT_FROM_PLAIN = "it is computed from a {kind}, not from plain tensors alone"
    NO_TENSOR = "it is a {kind}, not a tensor"
    NOT_COMPUTED = "it is a parameter itself, and is not computed"
    COMPUTED_GAPS = "its strides {strides} overlap or leave gaps, which a weight of its own cannot keep"
    NO_GRAPH = "{refusal}"  # as tracing words it
    NOT_MERGED = "peft does not merge it: {error}"

    # its parts in a file
    PARTS_UNKNOWN = "its parts {parts} are not those of {scheme}"
    SCHEME_UNKNOWN = "its scheme is not known"
    STACK_UNKNOWN = "{what}; fold the model itself"
    DIM_UNKNOWN = "its parts do not show which dim was kept{how}; give it (--dim)"
    DIM_CONTRARY = "{shown}"  # another dim than the user says
    MISFIT = "its parts do not fit together{how}"
    PART_MISSING = "its part {part!r} is missing"
    PART_DTYPE = "its part {part!r} has a dtype or layout that no scheme can compute with"
    PART_NO_DATA = "its part {part!r} has no data"
    PART_DTYPES = "its parts have several dtypes"

    # what a layout can hold
    NOT_APPLIED = "{what}, which cannot be applied"
    NOT_IN_TORCH = "torch has no {what}"
    OTHER_NUMBERS = "{layout} has no {target} with the same numbers; fold it"
    NOT_NAMED = "is no weight that {layout} can have, by its name and shape"
    MODULE_RENAMED = "its module has others in it ({inner!r}), and {layout} would rename them"
    NOT_FOLDED = "{what}, but {layout} holds only {held}"
    LAYOUT = "{problem}"  # what only one layout knows

    @property
    def already(self) -> bool:
        """Whether the weight is in the wanted state, so that leaving it is the right result."""
        return self in _ALREADY

    def __call__(self, **facts: object) -> Reason:
        """Return the reason with the facts in its text."""
        return Reason(self.value.format(**facts), self)


_ALREADY = frozenset(
    {
        Why.ALREADY_PLAIN,
        Why.ALREADY_COMPUTED,
        Why.ALREADY_HOOKED,
        Why.ALREADY_PARAMETRIZED,
        Why.ALREADY_IN_PLACE,
        Why.ALREADY_UNDER,
        Why.ALREADY_SPELLED,
    }
)
