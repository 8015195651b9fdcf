//! Tables of pods and the configurations they become.
