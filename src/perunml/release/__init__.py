"""THE decision: `decide(...) -> Release | Refusal`. Pure.

Every rule is looked at each time and every failing one is a reason: nothing here stops at the first. Reasons are typed
values, so a refusal can say what was expected, what was seen and who can mend it.
"""
