"""What people and programs read: diagnostics, the table, explanations, JSON and SARIF.

Turns graphs and diagnostics into text. Nothing here compiles, prints or exits, and nothing here
knows a layer: everything is asked of the op contract.
"""
