// Attributes that the kernel keeps for each thread alone, changed for all threads of the process.
#pragma once

namespace tsvm {

// Has every thread of the process call `change`, the caller last; none that is made later lacks it then. `change` may
// do what a signal handler may, and returns 0 or an errno value. Returns 0 or the first error.
int OnAllThreads(int (*change)());

}  // namespace tsvm
