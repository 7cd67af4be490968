// Whether a computation without the GIL shall go on.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <utility>

#include "binding/gil.h"
#include "core/clock.h"

namespace whisperq::binding {

// Asks Python, at most every 20 ms, whether to stop: its signal handlers (Ctrl-C) and the caller's own `should_stop`, a
// callable without arguments or None. What these raise stops too, and is for the end: rethrow_error().
class StopCheck {
  public:
    explicit StopCheck(pybind11::object should_stop) : should_stop_(std::move(should_stop)) {}

    bool operator()() noexcept {
        constexpr int64_t interval_us = 20000;
        const int64_t now = now_us();
        if (stopped_ || now - last_us_ < interval_us) return stopped_;
        last_us_ = now;
        with_gil([this] { ask(); });
        return stopped_;
    }

    void rethrow_error() const {
        if (error_) std::rethrow_exception(error_);
    }

  private:
    void ask() {
        try {
            if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
            stopped_ = !should_stop_.is_none() && should_stop_().cast<bool>();
        } catch (const std::exception&) {
            error_ = std::current_exception();
            stopped_ = true;
        }
    }

    pybind11::object should_stop_;
    int64_t last_us_ = 0;
    bool stopped_ = false;
    std::exception_ptr error_;
};

}  // namespace whisperq::binding
