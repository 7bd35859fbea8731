"""What methods and columns are called for readers, and the one colour each method has in every figure."""

from __future__ import annotations

__all__ = ["axis_label", "colour", "method_label"]

METHODS: dict[str, tuple[str, str]] = {
    "flat_mlp": ("Flat MLP", "#8d99ae"),
    "flat_mlp_4x": ("Flat MLP, 4 times as wide", "#8d99ae"),
    "flat_mlp_8x": ("Flat MLP, 8 times as wide", "#8d99ae"),
    "flat_mlp_aug": ("Flat MLP, augmented", "#5c677d"),
    "flat_mlp_aug_4x": ("Flat MLP, augmented, 4 times as wide", "#5c677d"),
    "flat_mlp_aug_8x": ("Flat MLP, augmented, 8 times as wide", "#5c677d"),
    "stat_nn": ("StatNN", "#e09f3e"),
    "dws": ("DWSNet", "#c9ada7"),
    "nfn_pt": ("NFN, pointwise", "#cdb4db"),
    "nfn_np": ("NFN, NP", "#a56cc1"),
    "nfn_hnp": ("NFN, HNP", "#7d3c98"),
    "nft": ("NFT", "#4a148c"),
    "nft_adjacent": ("NFT, adjacent terms alone", "#8e63ce"),
    "nft_plain": ("NFT, no Fourier features", "#b185db"),
    "nft_fine": ("NFT, Fourier scale 10", "#7b43b8"),
    "nft_hnp_pool": ("NFT, HNP pooling", "#9c6fd0"),
    "nft_hnp_pool_fine": ("NFT, HNP pooling, Fourier scale 10", "#c2a5e6"),
    "nft_hnp_pool_plain": ("NFT, HNP pooling, no Fourier features", "#d7b8f3"),
    "weightnet_paper": ("WeightNet, paper's tokens", "#9fc5e0"),
    "weightnet_sorted": ("WeightNet, sorted tokens", "#6b9ac4"),
    "weightnet_invariant": ("WeightNet", "#3a7ca5"),
    "neuron_gnn": ("NeuronGNN", "#2a9d6f"),
    "neuron_transformer": ("NeuronTransformer", "#1b6b4d"),
    "neural_graph_gnn": ("NG-GNN", "#52796f"),
    "neuron_sweep_random_signals": ("NeuronSweep, random signals", "#a7c957"),
    "neuron_sweep_perceptron": ("NeuronSweep, images, perceptron", "#8ab17d"),
    "neuron_sweep": ("NeuronSweep, images, mixture", "#6a994e"),
    "prober_random_probes": ("Prober, random probes", "#d98a96"),
    "prober": ("Prober", "#b5495b"),
    "pca_unaligned": ("Components, networks as they are", "#ced4da"),
    "pca": ("Components, aligned", "#adb5bd"),
    "pca_network_unaligned": ("Components of networks, as they are", "#dee2e6"),
    "pca_network": ("Components of networks, aligned", "#868e96"),
    "pca_64": ("Components, aligned, rank 64", "#495057"),
    "autoencoder_paper": ("Autoencoder, the paper's", "#ffd6a5"),
    "autoencoder": ("Autoencoder", "#f4a261"),
    "autoencoder_together": ("Autoencoder, scaled together", "#e76f51"),
    "autoencoder_behaviour": ("Autoencoder, behaviour", "#bc4749"),
    "autoencoder_wide_behaviour": ("Autoencoder, wide, behaviour", "#9d0208"),
    "behaviour": ("Behaviour", "#3a86ff"),
    "sane": ("Tokens", "#b5838d"),
    "graph_behaviour": ("Neuron graph, behaviour", "#2a9d6f"),
    "noise": ("Training networks with noise", "#adb5bd"),
    "mean": ("Mean of training networks", "#868e96"),
    "nearest": ("Nearest training condition", "#f4a261"),
    "projection": ("Projection", "#3a86ff"),
    "projection_density": ("Projection, density of residuals", "#4361ee"),
    "flow": ("Conditional flow", "#3a0ca3"),
    "shared_encoder": ("Shared encoder", "#3a86ff"),
    "shared_encoder_of_paper": ("Shared encoder, networks as they are", "#8ecae6"),
    "shared_encoder_clip_loss": ("Shared encoder, negatives across", "#4361ee"),
    "inr2array_nfn": ("INR2ARRAY, NFN (NP)", "#c77dff"),
    "inr2array_hnp": ("INR2ARRAY, NFN (HNP)", "#9d4edd"),
    "inr2array_nft": ("INR2ARRAY, NFT", "#5a189a"),
    "inr2array_nft_full": ("INR2ARRAY, NFT, all terms", "#5a189a"),
    "inr2array_nft_adjacent": ("INR2ARRAY, NFT, adjacent terms alone", "#7b2cbf"),
    "inr2array_nft_global": ("INR2ARRAY, NFT, global term alone", "#e0aaff"),
    "inr2array_gnn": ("INR2ARRAY, NeuronGNN", "#40916c"),
    "spatial_nfn": ("Spatial NFN", "#b185db"),
    "dense": ("Dense", "#23272f"),
    "imp": ("Iterative magnitude pruning", "#e09f3e"),
    "random_ticket": ("Random mask", "#b8b8b8"),
    "initial_magnitude": ("Magnitude of initial weights", "#8c6d46"),
    "nfn_np_without_latent": ("NFN, NP, no latent", "#d0a9e0"),
    "nfn_pt_without_norm": ("NFN, pointwise, no layer norm", "#e4d4ec"),
    "unedited": ("Unedited", "#b8b8b8"),
    "neuron_gnn_probes": ("NeuronGNN with probes", "#52b788"),
    "neuron_transformer_probes": ("NeuronTransformer with probes", "#31572c"),
    "nfn_np_2_parallel": ("NFN, NP, 2 averaged", "#9a5bb8"),
    "nfn_np_4_parallel": ("NFN, NP, 4 averaged", "#8e4aae"),
    "nfn_np_8_parallel": ("NFN, NP, 8 averaged", "#8239a4"),
    "nfn_np_without_io_encoding": ("NFN, NP, inputs and outputs unmarked", "#d0a9e0"),
    "pixel_reference": ("Pixels, residual network", "#e76f51"),
    "point_net": ("Points, PointNet", "#e76f51"),
    "inr2array_gnn_probes": ("INR2ARRAY, NeuronGNN, probes", "#4f772d"),
    "inr2array_transformer": ("INR2ARRAY, NeuronTransformer", "#1b6b4d"),
    "inr2array_transformer_probes": ("INR2ARRAY, NeuronTransformer, probes", "#31572c"),
    "inr2vec": ("inr2vec", "#b08968"),
}
SPARE = ("#b5495b", "#7d5ba6", "#c98bb9", "#6f9ceb", "#8c6d46", "#4f772d", "#d1495b", "#00798c")

COLUMNS = {
    "accuracy": "accuracy",
    "robustness": "robustness",
    "generalization_gap": "generalization gap",
    "tau": "Kendall τ",
    "r2": "R²",
    "mae": "MAE",
    "rmse": "RMSE",
    "train_accuracy": "training accuracy",
    "mse": "MSE",
    "train_mse": "training MSE",
    "relative_mse": "MSE relative to the training mean's",
    "train_relative_mse": "training MSE relative to the training mean's",
    "psnr": "PSNR, dB",
    "train_psnr": "training PSNR, dB",
    "ticket_accuracy": "accuracy of tickets",
    "ticket_recall": "share of iterative pruning's mask",
    "kept": "weights kept",
    "largest": "largest probabilities",
    "drawn": "drawn by probabilities",
    "agreement": "agreement",
    "recalibrated_agreement": "agreement, recalibrated",
    "recalibrated_drop": "accuracy drop, recalibrated",
    "recall_1": "recall@1",
    "recall_10": "recall@10",
    "recall_1_weights": "recall@1 of weights",
    "recall_1_lift": "recall@1 over chance",
    "nt_xent": "NT-Xent",
    "chance": "NT-Xent of equal similarities",
    "below_chance": "nats below chance",
    "probe_accuracy": "R² of a probe for accuracy",
    "probe_loss": "R² of a probe for loss",
    "probe_class": "first class told by a probe",
    "best_accuracy": "accuracy, best asked for",
    "reached_accuracy": "accuracy, all asked for",
    "spearman": "ρ of losses asked for and reached",
    "distance": "distance to the nearest training network",
    "correlation": "correlation of outputs",
    "cosine": "cosine of outputs",
    "class_entropy": "entropy of the classes given",
    "accuracy_drop": "drop of accuracy",
    "images": "test images",
    "noise_agreement": "agreement on noise",
    "noise_class_entropy": "entropy of the classes given to noise",
}


def method_label(method: str) -> str:
    """The method's name for readers; an unknown method keeps its own, in words.

    >>> method_label("weightnet_invariant"), method_label("no_encodings")
    ('WeightNet', 'no encodings')
    """
    return METHODS[method][0] if method in METHODS else method.replace("_", " ")


def colour(method: str) -> str:
    """The method's colour; an unknown method gets one of the spare ones, always the same."""
    return METHODS[method][1] if method in METHODS else SPARE[sum(map(ord, method)) % len(SPARE)]


def axis_label(name: str) -> str:
    """A property or a metric for readers.

    >>> axis_label("generalization_gap"), axis_label("r2")
    ('generalization gap', 'R²')
    """
    return COLUMNS.get(name, name.replace("_", " "))
