"""What judges the project: public rule sets, rules of our own, and proof that each can fail.

``make audit`` runs it. Every gate reports all it finds; what is allowed is matched here, and every
gate meets a planted fault each time. Below ``.audit/work`` lies what was judged.
"""
