//! Checkpoints that outlive the machine: a run's folder kept in an object store.
