// A team of emulated blocks, with the interface of csrc/cuda/team.h.
#pragma once
#include "emulator.h"

namespace hamiltorch {

template <bool kIsAlone, bool kExchangesGlobally>
class EmulatedTeam {
 public:
  static constexpr bool kAlone = kIsAlone, kGlobalExchange = kExchangesGlobally;

  EmulatedTeam(int index, int count, int rank, int thread)
      : index_(index), count_(count), rank_(rank), thread_(thread) {}

  int thread() const { return thread_; }
  int warp() const { return thread_ / 32; }
  int lane() const { return thread_ % 32; }
  int rank() const { return rank_; }
  int index() const { return index_; }
  int count() const { return count_; }
  void sync_block() const { emulator::sync_block(); }
  bool any(bool value) const { return emulator::any(value); }
  void sync_team() const { kAlone ? emulator::sync_block() : emulator::sync_team(); }
  template <class T>
  T* shared() const {
    return static_cast<T*>(emulator::shared_memory(rank_));
  }
  template <class T>
  T* peer(T* own, int member) const {
    const char* const mine = static_cast<const char*>(emulator::shared_memory(rank_));
    const auto offset = reinterpret_cast<const char*>(own) - mine;
    return reinterpret_cast<T*>(static_cast<char*>(emulator::shared_memory(member)) + offset);
  }

 private:
  int index_, count_, rank_, thread_;
};

}  // namespace hamiltorch
