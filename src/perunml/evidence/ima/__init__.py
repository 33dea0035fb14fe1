"""The IMA log: parse its binary form, replay it to a PCR, appraise its lines. Linux, security/integrity/ima."""
