// Kernels that are right, and the same with a fault each, on the emulator: what does it make of them? A kernel's name
// and a seed are the arguments; it prints "right", "wrong" or what the emulator throws.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../csrc/emulator/emulator.h"
#include "../csrc/emulator/warp_operations.h"

using namespace hamiltorch;

namespace {

constexpr int kMembers = 2, kThreads = 64, kRounds = 3;

float* shared(int member) { return static_cast<float*>(emulator::shared_memory(member)); }

enum Barrier { kNone, kBlock, kTeam };

// Every thread hands a number to another one, `distance` members away, again and again. Without the first barrier of a
// round a thread may read too early, without the second it may write too early.
bool hand_over(int distance, Barrier before_reading, Barrier before_writing, uint64_t seed) {
  const auto wait = [](Barrier barrier) {
    if (barrier == kBlock) emulator::sync_block();
    if (barrier == kTeam) emulator::sync_team();
  };
  bool right = true;
  emulator::run({1, kMembers, kThreads, kThreads * sizeof(float), seed}, [&](int, int rank, int thread) {
    for (int round = 0; round < kRounds; ++round) {
      shared(rank)[thread] = static_cast<float>(1000 * round + 100 * rank + thread);
      wait(before_reading);
      const int from = (rank + distance) % kMembers, other = kThreads - 1 - thread;
      const float expected = static_cast<float>(1000 * round + 100 * from + other);
      if (!(shared(from)[other] == expected)) right = false;
      wait(before_writing);
    }
  });
  return right;
}

// A sum over each warp in which only some lanes take part, or a barrier that some threads pass by.
bool absent(bool from_warp, bool from_barrier, uint64_t seed) {
  bool right = true;
  emulator::run({1, 1, kThreads, 64, seed}, [&](int, int, int thread) {
    if (thread % 32 != 5 || !from_warp) {
      float sum = 1;
      for (int mask = 16; mask > 0; mask >>= 1) sum += warp_shuffle_xor(sum, mask);
      if (sum != 32) right = false;
    }
    if (thread != 7 || !from_barrier) emulator::sync_block();
  });
  return right;
}

// Reads what nobody has written.
bool unwritten(uint64_t seed) {
  bool right = true;
  emulator::run({1, 1, 32, 32 * sizeof(float), seed}, [&](int, int, int thread) {
    const float value = shared(0)[thread];
    if (value != value) right = false;
  });
  return right;
}

}  // namespace

int main(int, char** arguments) {
  const uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
  const std::map<std::string, bool (*)(uint64_t)> kernels = {
      {"block", [](uint64_t s) { return hand_over(0, kBlock, kBlock, s); }},
      {"block, read too early", [](uint64_t s) { return hand_over(0, kNone, kBlock, s); }},
      {"block, written too early", [](uint64_t s) { return hand_over(0, kBlock, kNone, s); }},
      {"team", [](uint64_t s) { return hand_over(1, kTeam, kTeam, s); }},
      {"team, read too early", [](uint64_t s) { return hand_over(1, kBlock, kTeam, s); }},
      {"team, written too early", [](uint64_t s) { return hand_over(1, kTeam, kBlock, s); }},
      {"all are there", [](uint64_t s) { return absent(false, false, s); }},
      {"a lane is missing", [](uint64_t s) { return absent(true, false, s); }},
      {"a thread passes the barrier by", [](uint64_t s) { return absent(false, true, s); }},
      {"unwritten memory", unwritten},
  };
  try {
    std::puts(kernels.at(arguments[1])(seed) ? "right" : "wrong");
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
  }
}
