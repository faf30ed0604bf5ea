"""A model check: every order in which the atomic steps of claim, renew, publish, cancel, delete and requeue can fall.

Production code decides every step: `Pipeline`, `HeldJob`, `JobStore`, `Catalog`, `VectorStore`, collection, deletion
and submission run as they are. What they talk to is stood in for by values, so that a state can be gone on from twice.

    calls.py        one call to a store: the atom of every order; replaying code that makes calls
    mongo.py        the client's side of MongoDB, Qdrant and the object store; MongoDB's operators on plain records
    world.py        what is durable, and what a call does to it
    programs.py     what the actors do: a supervisor's attempt, a sweep, a user's requests
    actors.py       an actor's local states, each reached by the answers it got
    explorer.py     through every order, each state once
    invariants.py   what must hold
"""
