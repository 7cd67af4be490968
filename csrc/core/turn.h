// A lock for computations that take long.
#pragma once

#include <atomic>
#include <functional>

namespace whisperq {

// One thread at a time has the turn; others wait for it.
//
//   const Turn::Taken taken = turn.take(should_stop);
//   if (!taken) return false;
//
// In a child of fork() it is free, unless the thread that forked had it.
class Turn {
  public:
    class Taken {
      public:
        Taken(Taken&& other) noexcept : turn_(other.turn_) { other.turn_ = nullptr; }
        ~Taken() {
            if (turn_ != nullptr) turn_->give_back();
        }
        Taken(const Taken&) = delete;
        Taken& operator=(const Taken&) = delete;
        explicit operator bool() const noexcept { return turn_ != nullptr; }

      private:
        friend class Turn;
        explicit Taken(Turn* turn) noexcept : turn_(turn) {}
        Turn* turn_;
    };

    Turn() = default;
    // Nobody may have the turn.
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    // Asks should_stop() many times a second while it waits; false when that said so, and only then.
    //
    // Throws Error(Status::inference) in a thread that has the turn: it would wait for itself for ever. That is a
    // signal handler, or a callback, in the midst of a computation.
    Taken take(const std::function<bool()>& should_stop = {});

  private:
    struct State;
    State& state();
    void give_back() noexcept;

    std::atomic<State*> state_{nullptr};
};

}  // namespace whisperq
