// A call's job: its teams of threads and what each holds, how much memory all of that takes, and the run.
#pragma once
#include "network.h"

namespace hamiltorch {
namespace {

// What every job has. A tile, of type Held, is what a thread works on; most of it may be its team's.
template <class T, class Held>
struct Teams {
  Plan plan;
  Held* tiles;         // [teams * team_size]
  Worker<T>* workers;  // [teams * team_size]
  Barrier* barriers;   // [teams]
  Barrier* all;        // [1]

  int threads() const { return plan.teams * plan.team_size; }
};

// Lays out the teams of a job that has its plan: take_team() what one shares, take_own(shared) a member's tile. `most`
// is the most columns that a product reads or writes, `pairs` says whether products of bfloat16 are among them.
template <class T, class Held, class TakeTeam, class TakeOwn>
void take_teams(Arena& arena, Teams<T, Held>& job, int64_t most, bool pairs, const TakeTeam& take_team,
                const TakeOwn& take_own) {
  const int size = job.plan.team_size;
  job.tiles = arena.take<Held>(job.threads());
  job.workers = arena.take<Worker<T>>(job.threads());
  job.barriers = arena.take<Barrier>(job.plan.teams);
  job.all = arena.take<Barrier>(1);
  for (int first = 0; first < job.threads(); first += size) {
    const Held shared = take_team();
    for (int i = first; i < first + size; ++i) {
      const Held tile = take_own(shared);
      if (job.tiles) job.tiles[i] = tile;
    }
    Barrier* const barrier = job.barriers + first / size;
    take_workers(arena, job.workers ? job.workers + first : nullptr, size, barrier, job.plan.tile_rows, most,
                 !job.plan.packed, pairs);
    if (job.barriers) barrier->reset();
  }
  if (job.all) job.all->reset();
}

// The same where all of a tile is the team's.
template <class T, class Held, class TakeTeam>
void take_teams(Arena& arena, Teams<T, Held>& job, int64_t most, bool pairs, const TakeTeam& take_team) {
  take_teams(arena, job, most, pairs, take_team, [](const Held& shared) { return shared; });
}

// Memory of the job that take(arena, prepared, filled) lays out, for so many samples.
template <class Take>
Sizes measure_job(int64_t samples, const Take& take) {
  if (samples == 0) return {0, 0, 0};
  Arena arena(nullptr), prepared(nullptr);
  const Plan plan = take(arena, prepared, false).plan;
  return {arena.used(), prepared.used(), layout(plan)};
}

template <auto roll, class Job>
void run_thread(void* context, int index) {
  const Job& job = *static_cast<const Job*>(context);
  job.get_ready({index, job.threads(), job.all});
  for_tiles(job.plan, job.samples(), index,
            [&](int64_t row, int64_t rows) { roll(job, job.tiles[index], row, rows, job.workers[index]); });
}

// Lays the job out, lets give(job) add the call's arrays, and takes every tile through roll(job, tile, first sample,
// samples, worker).
template <auto roll, class Take, class Give>
Status run_job(int64_t samples, const Prepared& kept, void* workspace, size_t size, const Take& take,
               const Give& give) {
  if (samples == 0) return Status::kOk;
  if (size < measure_job(samples, take).workspace) return Status::kWorkspaceTooSmall;
  Arena arena(workspace), prepared(kept.memory);
  auto job = take(arena, prepared, kept.filled);
  give(job);
  parallel(job.threads(), run_thread<roll, decltype(job)>, &job);
  return Status::kOk;
}

}  // namespace
}  // namespace hamiltorch
