from __future__ import annotations

import torch

from .sequence import SequenceLayer


class LSTM(SequenceLayer, torch.nn.LSTM):
    """LSTM: ``c_t = f c_{t-1} + i g``, ``h_t = o tanh(c_t)``, with i, f, o sigmoids and g a tanh of
    ``x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh``; with `proj_size` h_t is then multiplied by ``W_hr``.

    A torch.nn.LSTM in its arguments, parameters ``weight_ih_l{k} (4H, I)``, ``weight_hh_l{k} (4H, P)``,
    ``bias_ih_l{k}``, ``bias_hh_l{k} (4H)``, ``weight_hr_l{k} (P, H)``, initialisation and state_dict. `forward`
    takes keyword-only `lengths`, `resets`, `reset_state` and `return_states` as well.

    Args:
        input_size, hidden_size: I and H.
        num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: as in torch.nn.LSTM.
        save: keyword-only. What training keeps of the forward: "all", or "states", for the backward to compute the
            gates again.

    Shapes: input ``(T, B, I)``, h_0 and h_n ``(num_layers * directions, B, P)``, c_0 and c_n
    ``(num_layers * directions, B, H)``, output ``(T, B, directions * P)``; P is proj_size, or H without one.
    """

    cell_name = "lstm"
