#undef _FORTIFY_SOURCE  // whose longjmp refuses another stack
#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

// How many launches there were, and how many of them of all blocks at once.
extern "C" {
__attribute__((visibility("default"))) int64_t emulated_launches = 0, emulated_cooperative_launches = 0;
}

namespace emulation {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr int kWarp = 32;

// A barrier of those that are alive.
struct Barrier {
  int alive = 0, waiting = 0;
  int64_t generation = 0;
  void release_if_full() {
    if (alive > 0 && waiting == alive) waiting = 0, ++generation;
  }
};

struct Warp {
  Barrier barrier;
  uint64_t slot[kWarp];
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<unsigned char> memory;
};

// Begins by its context, and goes on by longjmp: swapcontext asks the kernel for the signal mask each time.
struct Fiber {
  ucontext_t context;
  jmp_buf left;
  std::unique_ptr<char[]> stack{new char[kStack]};
  Now now;
  Block* block;
  bool begun, done;
};

Fiber* current = nullptr;
jmp_buf scheduler;
const std::function<void()>* work = nullptr;
bool progress = false;

Warp& warp() { return current->block->warps[current->now.thread_index.x / kWarp]; }

void wait(Barrier& barrier) {
  const int64_t generation = barrier.generation;
  ++barrier.waiting;
  barrier.release_if_full();
  while (barrier.generation == generation) yield();
  progress = true;
}

void start() {
  (*work)();
  current->done = progress = true;
  for (Barrier* barrier : {&current->block->barrier, &warp().barrier}) {
    --barrier->alive;
    barrier->release_if_full();
  }
  _longjmp(scheduler, 1);
}

// Runs a fiber until it yields or ends. A function of its own: nothing else lives across its two returns.
__attribute__((noinline)) void resume(Fiber* fiber) {
  current = fiber;
  if (_setjmp(scheduler) != 0) return;
  if (fiber->begun) _longjmp(fiber->left, 1);
  fiber->begun = true;
  setcontext(&fiber->context);
}

void run_blocks(int64_t first, int64_t count, int64_t grid, int threads, size_t bytes) {
  static std::vector<std::unique_ptr<Fiber>> fibers;  // stacks serve again
  static std::minstd_rand random(1);
  std::vector<Block> blocks(static_cast<size_t>(count));
  std::vector<Fiber*> running;
  for (int64_t b = 0; b < count; ++b) {
    Block& block = blocks[static_cast<size_t>(b)];
    block.barrier.alive = threads;
    block.warps.resize(static_cast<size_t>((threads + kWarp - 1) / kWarp));
    block.memory.assign(bytes, 0xFF);
    for (int t = 0; t < threads; ++t) {
      if (running.size() == fibers.size()) fibers.push_back(std::make_unique<Fiber>());
      Fiber& fiber = *fibers[running.size()];
      ++block.warps[static_cast<size_t>(t / kWarp)].barrier.alive;
      fiber.now = {{static_cast<unsigned>(t), 0, 0},
                   {static_cast<unsigned>(first + b), 0, 0},
                   {static_cast<unsigned>(threads), 1, 1},
                   {static_cast<unsigned>(grid), 1, 1}};
      fiber.block = &block;
      fiber.begun = fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, start, 0);
      running.push_back(&fiber);
    }
  }
  for (int64_t idle = 0; !running.empty(); idle = progress ? 0 : idle + 1) {
    if (idle > 100000) {
      std::fprintf(stderr, "emulation: deadlock, %zu threads wait\n", running.size());
      std::abort();
    }
    progress = false;
    std::shuffle(running.begin(), running.end(), random);
    for (Fiber* fiber : running) resume(fiber);
    running.erase(std::remove_if(running.begin(), running.end(), [](Fiber* fiber) { return fiber->done; }), running.end());
  }
}

}  // namespace

const Now& now() { return current->now; }
int lane() { return static_cast<int>(current->now.thread_index.x) % kWarp; }
void* memory() { return current->block->memory.data(); }
void yield() {
  if (_setjmp(current->left) == 0) _longjmp(scheduler, 1);
}
void block_barrier() { wait(current->block->barrier); }
void warp_barrier() { wait(warp().barrier); }

uint64_t exchange_bits(uint64_t bits, int source) {
  warp().slot[lane()] = bits;
  warp_barrier();
  const uint64_t seen = warp().slot[source % kWarp];
  warp_barrier();
  return seen;
}

void run(int64_t blocks, int threads, size_t bytes, bool together, const std::function<void()>& body) {
  work = &body;
  ++emulated_launches;
  emulated_cooperative_launches += together;
  if (together) return run_blocks(0, blocks, blocks, threads, bytes);
  for (int64_t b = 0; b < blocks; ++b) run_blocks(b, 1, blocks, threads, bytes);
}

}  // namespace emulation
