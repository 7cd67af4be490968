// Other Python threads run while we compute.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

namespace whisperq::binding {

// A daemon thread that asks for the GIL while the interpreter shuts down is ended by CPython (before 3.14) with
// pthread_exit(), which unwinds the stack; and unwinding out of a destructor, or of what is noexcept, aborts the
// process. Such a thread waits for the end here instead, as it does in 3.14.
[[noreturn]] inline void wait_for_the_end() {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// What pybind11's gil_scoped_release is, but for the end of the process.
class GilReleased {
  public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {  // not an exception: glibc's unwinding, which may not be ended
            wait_for_the_end();
        }
    }
    GilReleased(const GilReleased&) = delete;
    GilReleased& operator=(const GilReleased&) = delete;

  private:
    PyThreadState* state_;
};

// Does what needs the GIL on a thread that may have released it: `action` may run Python, and throw.
template <class Action>
void with_gil(const Action& action) {
    try {
        const pybind11::gil_scoped_acquire gil;
        action();
    } catch (...) {
        if (!std::current_exception()) wait_for_the_end();  // glibc's unwinding is none
        throw;
    }
}

}  // namespace whisperq::binding
