"""Long runs that try to lose or break something: what was asked for, and what was seen."""
