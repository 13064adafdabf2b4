"""The benchmark of attribution methods: models × methods × prompts, as files that outlive a kill.

`plan` says what is asked for, `prompts` what is read, `runner` computes, `records` are what is kept of each cell,
`folder` reads and writes them, `tables`, `insights` and `report` say what came out.
"""
