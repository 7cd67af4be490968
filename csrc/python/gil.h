// Other Python threads run while we compute.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace whisperq::python {

// What pybind11's gil_scoped_release is, but for the end of the process. A daemon thread that asks for the GIL while
// the interpreter shuts down is ended by CPython (before 3.14) with pthread_exit(), which unwinds the stack; and
// unwinding out of a destructor aborts the process. Here the thread waits for the end instead, as in 3.14.
class GilReleased {
  public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {  // not an exception: glibc's unwinding, which may not be ended
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }
    GilReleased(const GilReleased&) = delete;
    GilReleased& operator=(const GilReleased&) = delete;

  private:
    PyThreadState* state_;
};

}  // namespace whisperq::python
